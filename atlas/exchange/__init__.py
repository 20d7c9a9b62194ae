"""Graphs and descriptions to and from other tools: files in, files out, no torch.

parquet       a set's whole graph as a folder of tables, or with a name that ends so its descriptions
graphml       a set's whole graph as one document (:mod:`atlas.exchange.graphs`)
weightlens    the JSON of WeightLens and of its data sets, a file a layer (:mod:`atlas.exchange.weightlens`)
neuronpedia   Neuronpedia's exports of explanations, gzipped JSON lines (:mod:`atlas.exchange.neuronpedia`)
csv           one row a description (:mod:`atlas.exchange.tables`)

What is read becomes a run of descriptions beside the build, of the method ``weightlens`` or ``neuronpedia``, with what
it came from; reading the same files again changes nothing.
"""
