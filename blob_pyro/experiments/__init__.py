"""Many runs side by side: the comparison of systems, the paper's tables and figures, the benchmark."""
