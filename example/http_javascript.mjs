// HTTP from JavaScript, in Node.js 18 or later; in a browser the same `fetch` will do.
//
//     bert-serving-start -http_port 8125
//     node example/http_javascript.mjs                  or: node example/http_javascript.mjs http://10.0.0.7:8125
const server = process.argv[2] ?? "http://localhost:8125";

async function encode(texts) {
  const response = await fetch(`${server}/encode`, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({id: 1, texts}),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status}: ${answer.description}`);
  return answer.results;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

const [cat, kitten, bank] = await encode(["a cat sleeps", "a kitten takes a nap", "the bank raises its rates"]);
console.log(`cat and kitten: ${cosine(cat, kitten).toFixed(2)}`);
console.log(`cat and bank: ${cosine(cat, bank).toFixed(2)}`);
