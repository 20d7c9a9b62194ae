// The features of which something is said that contains these words, in any case.
// $text: text       the words
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, text: text, method: text
MATCH (f:Feature)-[:DESCRIBED_BY]->(d:Description)
WHERE toLower(d.text) CONTAINS toLower($text)
RETURN f.key AS key, f.layer AS layer, f.label AS label, d.text AS text, d.method AS method
ORDER BY key, text
LIMIT $limit
