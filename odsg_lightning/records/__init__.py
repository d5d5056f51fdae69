"""The files that audits leave: record, maps, audit set, baseline, unfinished audits. Nothing here loads torch."""
