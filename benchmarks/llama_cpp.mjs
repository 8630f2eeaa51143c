// Times llama.cpp for benchmarks/generate.py: node llama_cpp.mjs NODE_MODULES MODEL IDS N THREADS
// prints the seconds of the prompt with the first token, and of N tokens with the prompt.
const [folder, modelPath, ids, n, threads] = process.argv.slice(2);
const { getLlama } = await import(`${folder}/node-llama-cpp/dist/index.js`);
const llama = await getLlama({ build: "never", gpu: false, maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: 1024, threads: Number(threads) });
const sequence = context.getSequence();

async function write(count) {
  await sequence.clearHistory();
  const begin = performance.now();
  let written = 0;
  for await (const _ of sequence.evaluate(JSON.parse(ids), { yieldEogToken: true })) {
    if (++written >= count) break;
  }
  return (performance.now() - begin) / 1000;
}

await write(2);
console.log(JSON.stringify([await write(1), await write(Number(n))]));
process.exit(0);
