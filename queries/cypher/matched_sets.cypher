// How many features of one set stand for features of another, by the method that found them.
// $a: text  the set whose key comes first, such as gpt2-small/tc-24k
// $b: text  the other
// -> method: text, run: text, pairs: int, mean_score: double
MATCH (x:Feature)-[e:MATCHES]->(y:Feature)
WHERE x.set = $a AND y.set = $b
RETURN e.method AS method, e.run AS run, count(e) AS pairs, avg(e.score) AS mean_score
ORDER BY method, run
