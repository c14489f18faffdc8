"""One file for each stage of a run; `datus.pipeline` lists them in order."""
