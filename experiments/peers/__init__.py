"""The networks of the benchmark, in jaxbp and in its peers."""
