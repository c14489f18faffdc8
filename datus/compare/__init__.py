"""Many runs, any masks, the paper's tables and figures."""
