"""The gate's answer for people and for CI: terminal, JSON, JUnit, Markdown, pictures."""
