"""People recognised in photographs."""
