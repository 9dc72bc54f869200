"""Several processes that train one model: ranks, sums, sharding."""
