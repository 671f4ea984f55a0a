"""Claims of the BatchNorm-only paper: the register, the printed tables, and the checks."""
