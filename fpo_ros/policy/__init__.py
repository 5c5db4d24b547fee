"""Flow policies: contract and transforms (numpy only), the pi0 model and its training loss (torch)."""
