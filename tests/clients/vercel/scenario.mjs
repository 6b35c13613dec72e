// What a developer does with the Vercel AI SDK: prints what came back as one JSON object,
// the name of each step -> what it returned, or the error that it raised.
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from "ai";

const [baseURL, apiKey, model, embeddingModel] = process.argv.slice(2);
const ASK = "What is Tramontane?";
const COUNT = { temperature: 0, maxOutputTokens: 160, maxRetries: 0 };
const results = {};

const city = jsonSchema({
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, is_port: { type: "boolean" } },
  required: ["name", "is_port"],
  additionalProperties: false,
});
const weather = tool({
  description: "Tell the weather in a city.",
  inputSchema: jsonSchema({
    type: "object",
    properties: { city: { type: "string", maxLength: 20 } },
    required: ["city"],
    additionalProperties: false,
  }),
});

async function attempt(name, step) {
  try {
    results[name] = await step();
  } catch (error) {
    results[name] = { raised: error.name, message: String(error.message), status: error.statusCode };
  }
}

function calls(found) {
  return found.map((call) => ({ name: call.toolName, args: call.input }));
}

async function whole(chosen, changes = {}) {
  const found = await generateText({ model: chosen, prompt: ASK, ...COUNT, ...changes });
  const { inputTokens, outputTokens, totalTokens } = found.usage;
  return {
    text: found.text,
    finish: found.finishReason,
    usage: { inputTokens, outputTokens, totalTokens },
    calls: calls(found.toolCalls),
  };
}

async function streamed(chosen, changes = {}) {
  const errors = [];
  const onError = ({ error }) => errors.push(String(error.message));
  const found = streamText({ model: chosen, prompt: ASK, onError, ...COUNT, ...changes });
  let text = "";
  let chunks = 0;
  for await (const piece of found.textStream) {
    text += piece;
    chunks += 1;
  }
  const { inputTokens, outputTokens, totalTokens } = await found.usage;
  return {
    text,
    chunks,
    errors,
    finish: await found.finishReason,
    usage: { inputTokens, outputTokens, totalTokens },
    calls: calls(await found.toolCalls),
  };
}

async function structured(chosen) {
  const output = Output.object({ schema: city });
  const found = await generateText({ model: chosen, prompt: "Name a city.", output, ...COUNT });
  return found.output;
}

async function run(name, chosen, wrong) {
  const forced = { prompt: "What is the weather in Nice?", tools: { weather }, toolChoice: "required" };
  await attempt(`${name} chat`, () => whole(chosen));
  await attempt(`${name} stream`, () => streamed(chosen));
  await attempt(`${name} tool`, () => whole(chosen, forced));
  await attempt(`${name} tool stream`, () => streamed(chosen, forced));
  await attempt(`${name} structured`, () => structured(chosen));
  await attempt(`${name} wrong key`, () => whole(wrong));
}

const openai = createOpenAI({ baseURL, apiKey });
const wrongOpenai = createOpenAI({ baseURL, apiKey: "tmt_wrong" });
const mistral = createMistral({ baseURL, apiKey });
const wrongMistral = createMistral({ baseURL, apiKey: "tmt_wrong" });
const settings = { name: "tramontane", baseURL, includeUsage: true, supportsStructuredOutputs: true };
const compatible = createOpenAICompatible({ ...settings, apiKey });
const wrongCompatible = createOpenAICompatible({ ...settings, apiKey: "tmt_wrong" });
await run("openai", openai.chat(model), wrongOpenai.chat(model));
await run("responses", openai.responses(model), wrongOpenai.responses(model));
await run("compatible", compatible(model), wrongCompatible(model));
await run("mistral", mistral(model), wrongMistral(model));

const values = ["the north wind", "a quiet harbour"];
const embedders = {
  openai: openai.embedding(embeddingModel),
  compatible: compatible.embeddingModel(embeddingModel),
  mistral: mistral.embedding(embeddingModel),
};
for (const [name, chosen] of Object.entries(embedders)) {
  await attempt(`${name} embeddings`, async () => {
    const found = await embedMany({ model: chosen, values, maxRetries: 0 });
    return found.embeddings;
  });
}
console.log(JSON.stringify(results));
