// The connection from a token to a feature, if it is kept.
// $source: text  the token
// $target: text  the feature that reads it
// -> source: text, target: text, weight: float, z: float, share: float
MATCH (a:Token {key: $source})-[e:ACTIVATES]->(b:Feature {key: $target})
RETURN a.key AS source, b.key AS target, e.weight AS weight, e.z AS z, e.share AS share
