// Files in a package of ONNX Runtime for JavaScript, which the command line names behind the cases.
const fs = require("node:fs");
const path = require("node:path");

const [, , casesPath, packageName] = process.argv;
const ort = require(packageName);
const ARRAYS = { float32: Float32Array, uint8: Uint8Array };

async function run({ model, input, dtype, shape, data }) {
  const session = await ort.InferenceSession.create(fs.readFileSync(model), { intraOpNumThreads: 1 });
  const bytes = fs.readFileSync(data);
  const values = new ARRAYS[dtype](bytes.buffer, bytes.byteOffset, bytes.length / ARRAYS[dtype].BYTES_PER_ELEMENT);
  return session.run({ [input]: new ort.Tensor(dtype, values, shape) });
}

async function main() {
  for (const one of JSON.parse(fs.readFileSync(casesPath))) {
    try {
      const outputs = await run(one);
      for (const [name, { data }] of Object.entries(outputs)) {
        fs.writeFileSync(path.join(one.out, `${name}.bin`), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
    } catch (error) {
      fs.writeFileSync(path.join(one.out, "error.txt"), String(error));
    }
  }
  console.log(ort.env.versions[packageName.replace("onnxruntime-", "")]);
}

main();
