"""What runs on Spark: the session, a round as a job, and the task that supervises a Barista."""
