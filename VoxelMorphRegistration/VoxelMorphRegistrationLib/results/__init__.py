"""What is written of a registration: files, the overview picture, tables and pages."""
