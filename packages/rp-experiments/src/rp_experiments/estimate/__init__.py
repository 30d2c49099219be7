"""What a run will take, before it starts: operations, memory, disk and hours."""
