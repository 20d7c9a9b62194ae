// The layers of one set and how many features each has.
// $set: text  the set, such as gpt2-small/tc-24k
// -> layer: int, features: int
MATCH (f:Feature {set: $set})
RETURN f.layer AS layer, count(f) AS features
ORDER BY layer
