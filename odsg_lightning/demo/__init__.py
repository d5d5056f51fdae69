"""A generated data set and a fine-tuning run that shows the whole product in minutes."""
