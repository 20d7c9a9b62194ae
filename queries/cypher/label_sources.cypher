// What the labels of a set's features are made from, and how many are made from each.
// $set: text  the set, such as gpt2-small/tc-24k
// -> label_source: text, features: int
MATCH (f:Feature {set: $set})
RETURN f.label_source AS label_source, count(f) AS features
ORDER BY label_source
