"""One pass over a corpus: tiles in, sums and examples out, in shards and on many machines."""
