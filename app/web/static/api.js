// Owns talking to the service: errors as sentences, uploads. The browser sends the key.

/** A response; throws an Error whose message is the problem's `detail`. */
export async function call(path, { json, ...options } = {}) {
  const body = json && { body: JSON.stringify(json), method: "POST" };
  const type = json && { "Content-Type": "application/json" };
  const sent = fetch(path, { ...body, ...options, headers: type });
  const answer = await sent.catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The service does not answer.");
  });
  if (!answer.ok) throw problem(answer.status, await answer.text());
  return answer;
}

export const get = async (path) => (await call(path)).json();
export const post = (path) => call(path, { method: "POST" });
export const textOf = async (path) => (await call(path)).text();
export const blobOf = async (path, options) => (await call(path, options)).blob();

/** fetch tells nothing of an upload's progress, XMLHttpRequest does: `onProgress(0…1)`. */
export function upload(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.upload.addEventListener("progress", (e) => onProgress(e.loaded / e.total));
    request.addEventListener("error", () => reject(new Error("The upload broke off.")));
    request.addEventListener("load", () => {
      if (request.status < 400) resolve();
      else reject(problem(request.status, request.responseText));
    });
    request.send(form);
  });
}

function problem(status, text) {
  try {
    return new Error(JSON.parse(text).detail);
  } catch {
    return new Error(`The service answered ${status}.`);
  }
}
