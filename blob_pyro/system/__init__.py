"""What is not of this field: files, processes, the terminal, the machine, the hub."""
