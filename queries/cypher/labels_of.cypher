// The labels of some features, asked at once.
// $keys: texts  the features
// -> key: text, layer: int, label: text
UNWIND $keys AS wanted
MATCH (f:Feature {key: wanted})
RETURN f.key AS key, f.layer AS layer, f.label AS label
