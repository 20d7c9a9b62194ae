// What is said of one feature, by every method.
// $key: text  the feature
// -> key: text, text: text, method: text, explainer: text, scores: text, created: text, run: text
MATCH (:Feature {key: $key})-[:DESCRIBED_BY]->(d:Description)
RETURN d.key AS key, d.text AS text, d.method AS method, d.explainer AS explainer, d.scores AS scores,
  d.created AS created, d.run AS run
ORDER BY key
