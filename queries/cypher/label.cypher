// The label of one feature.
// $key: text  the feature
// -> key: text, layer: int, label: text
MATCH (f:Feature {key: $key})
RETURN f.key AS key, f.layer AS layer, f.label AS label
