// The connection from a feature to a token's logit, if it is kept.
// $source: text  the feature that writes
// $target: text  the token
// -> source: text, target: text, weight: float, z: float, share: float
MATCH (a:Feature {key: $source})-[e:PROMOTES]->(b:Token {key: $target})
RETURN a.key AS source, b.key AS target, e.weight AS weight, e.z AS z, e.share AS share
