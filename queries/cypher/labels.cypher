// What every feature of a set is called.
// $set: text  the set, such as gpt2-small/tc-24k
// -> key: text, layer: int, label: text
MATCH (f:Feature {set: $set})
RETURN f.key AS key, f.layer AS layer, f.label AS label
ORDER BY key
