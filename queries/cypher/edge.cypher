// The connection from one feature to another, if it is kept.
// $source: text  the feature that writes
// $target: text  the feature that reads
// -> source: text, target: text, weight: float, z: float, share: float
MATCH (a:Feature {key: $source})-[e:FEEDS]->(b:Feature {key: $target})
RETURN a.key AS source, b.key AS target, e.weight AS weight, e.z AS z, e.share AS share
