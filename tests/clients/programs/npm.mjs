// The clients that npm has, as they stand. Copied to where they are installed, and run there: see `__main__.py`.
//
// The job comes as JSON on standard input, the findings go out as JSON, as in `_report.py`. Each client is a function
// of base URL and key that ranks `query` and `documents` and gives [index, score] pairs in the order its users see.
import { readFileSync } from "node:fs";

import { createCohere } from "@ai-sdk/cohere";
import { constructLlmApi } from "@continuedev/openai-adapters";
import { CohereRerank } from "@langchain/cohere";
import { MixedbreadAIReranker } from "@langchain/mixedbread-ai";
import { Mixedbread } from "@mixedbread/sdk";
import { Pinecone } from "@pinecone-database/pinecone";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { VoyageAIClient } from "voyageai";
import ZeroEntropy from "zeroentropy";

const { url, cases, query, documents } = JSON.parse(readFileSync(0, "utf8"));
const seen = (results) => results.map((one) => [one.index, one.relevanceScore]);
const pages = () => documents.map((text, index) => ({ pageContent: text, metadata: { index } }));
const equal = (one, other) => {
  if (JSON.stringify(one) !== JSON.stringify(other)) throw new Error(`${JSON.stringify(one)} is not what was sent`);
};

const clients = {
  "npm cohere-ai CohereClient": async (url, token) => {
    const client = new CohereClient({ token, environment: url });
    const { results } = await client.rerank({ query, documents, model: "any", returnDocuments: true, topN: 4 });
    equal(results.map((one) => one.document.text), results.map((one) => documents[one.index]));
    return seen(results);
  },
  "npm cohere-ai CohereClient, objects": async (url, token) => {
    const client = new CohereClient({ token, environment: url });
    const objects = documents.map((text) => ({ text }));
    return seen((await client.rerank({ query, documents: objects, model: "any", rankFields: ["text"] })).results);
  },
  "npm cohere-ai CohereClientV2": async (url, token) => {
    const client = new CohereClientV2({ token, environment: url });
    return seen((await client.rerank({ query, documents, model: "any", maxTokensPerDoc: 4096 })).results);
  },
  "npm voyageai": async (url, apiKey) => {
    const client = new VoyageAIClient({ apiKey, baseUrl: `${url}/voyage/v1` });
    return seen((await client.rerank({ query, documents, model: "rerank-2", returnDocuments: true })).data);
  },
  "npm voyageai, topK": async (url, apiKey) => {
    const client = new VoyageAIClient({ apiKey, baseUrl: `${url}/v1` });
    return seen((await client.rerank({ query, documents, model: "rerank-2", topK: 2 })).data);
  },
  "npm @langchain/cohere": async (url, token) => {
    const ranker = new CohereRerank({ client: new CohereClient({ token, environment: url }), model: "any", topN: 3 });
    const found = await ranker.compressDocuments(pages(), query);
    equal(await ranker.rerank(documents, query), found.map(({ metadata: { index, relevanceScore } }) => ({ index, relevanceScore })));
    return found.map(({ metadata }) => [metadata.index, metadata.relevanceScore]);
  },
  "npm @langchain/mixedbread-ai": async (url, apiKey) => {
    const ranker = new MixedbreadAIReranker({ apiKey: `Bearer ${apiKey}`, baseUrl: url }); // which it sends as it is
    const found = await ranker.compressDocuments(pages(), query);
    return found.map(({ metadata }) => [metadata.index, metadata.relevanceScore]);
  },
  "npm @mixedbread/sdk": async (url, apiKey) => {
    const { data } = await new Mixedbread({ apiKey, baseURL: url }).rerank({ query, input: documents, return_input: true });
    equal(data.map((one) => one.input), data.map((one) => documents[one.index]));
    return data.map((one) => [one.index, one.score]);
  },
  "npm zeroentropy": async (url, apiKey) => {
    const client = new ZeroEntropy({ apiKey, baseURL: `${url}/v1` });
    const { results } = await client.models.rerank({ model: "zerank-2", query, documents, top_n: 3 });
    return results.map((one) => [one.index, one.relevance_score]);
  },
  "npm @pinecone-database/pinecone": async (url, key) => {
    const headers = { Authorization: `Bearer ${key}` };
    const client = new Pinecone({ apiKey: "any", controllerHostUrl: `${url}/pinecone`, additionalHeaders: headers });
    const { data } = await client.inference.rerank({ model: "any", query, documents, topN: 4 });
    equal(data.map((one) => one.document.text), data.map((one) => documents[one.index]));
    return data.map((one) => [one.index, one.score]);
  },
  "npm ai, @ai-sdk/cohere": async (url, apiKey) => {
    const model = createCohere({ apiKey, baseURL: `${url}/v2` }).reranking("any");
    const { ranking } = await rerank({ model, query, documents, topN: 4 });
    equal(ranking.map((one) => one.document), ranking.map((one) => documents[one.originalIndex]));
    return ranking.map((one) => [one.originalIndex, one.score]);
  },
  "npm @continuedev/openai-adapters": async (url, apiKey) => {
    const client = constructLlmApi({ provider: "openai", apiKey, apiBase: `${url}/continue/v1/` });
    const { data, ...rest } = await client.rerank({ model: "any", query, documents });
    if (!Array.isArray(data)) throw new Error(JSON.stringify(rest)); // as Continue itself does (core/llm/index.ts)
    return data.map((one) => [one.index, one.relevance_score]);
  },
};

/** Ask until the key may have no more for about two seconds. */
async function useUp(url, key) {
  const body = JSON.stringify({ query: "q", documents: Array.from({ length: 10 }, (_, i) => `${i} `.repeat(20)) });
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  for (;;) {
    const answer = await fetch(`${url}/v1/rerank`, { method: "POST", body, headers });
    if (answer.status === 429 && Number(answer.headers.get("retry-after")) >= 2) return;
    if (answer.status === 429) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

const findings = {};
for (const [name, client] of Object.entries(clients)) {
  findings[name] = {};
  for (const [kind, key] of Object.entries(cases)) {
    if (kind === "limited") await useUp(url, key);
    const began = performance.now();
    let finding;
    try {
      finding = { ranking: await client(url, key) };
    } catch (error) {
      finding = { error: error.constructor.name, said: String(error.message).slice(0, 400) };
    }
    findings[name][kind] = { ...finding, took_s: Math.round((performance.now() - began) / 10) / 100 };
  }
}
console.log(JSON.stringify(findings));
