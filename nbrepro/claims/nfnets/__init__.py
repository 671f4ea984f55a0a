"""Claims of the NFNets paper: the register, the printed tables, and the checks by subject."""
