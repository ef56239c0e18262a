"""What was made: records on their way to DT (outbox), what came from what (lineage), many runs as one (batch)."""
