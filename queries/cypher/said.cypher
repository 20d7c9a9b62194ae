// Everything that is said of the features of a set, the method of each description beside it.
// $set: text  the set, such as gpt2-small/tc-24k
// -> key: text, layer: int, text: text, method: text
MATCH (f:Feature {set: $set})-[:DESCRIBED_BY]->(d:Description)
RETURN f.key AS key, f.layer AS layer, d.text AS text, d.method AS method
ORDER BY key, method, text
