// Which runs said something of the features of a set, and of how many.
// $set: text  the set, such as gpt2-small/tc-24k
// -> method: text, run: text, descriptions: int
MATCH (f:Feature {set: $set})-[:DESCRIBED_BY]->(d:Description)
RETURN d.method AS method, d.run AS run, count(d) AS descriptions
ORDER BY method, run
