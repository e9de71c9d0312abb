// What a reader has said and the server has not confirmed yet: kept in this browser, sent in order, each once by its key.

import { Refusal, request } from "./session.js";

const RETRY_MILLISECONDS = [1000, 2000, 4000, 8000, 15000];

export class Outbox extends EventTarget {
  constructor(reader) {
    super();
    this.name = `radclipd outbox ${reader}`;
    this.draftName = `radclipd draft ${reader}`;
    this.entries = JSON.parse(localStorage.getItem(this.name) ?? "[]");
    this.drafts = JSON.parse(localStorage.getItem(this.draftName) ?? "{}");
    this.sent = {}; // drafts that the server has confirmed since: a list of tasks that is under way may hold older ones
    this.failures = 0;
    this.isSending = false;
    addEventListener("online", () => this.flush());
  }

  /** Studies whose readings wait: the server would still offer them. */
  get studies() {
    return new Set(this.entries.map((entry) => entry.study));
  }

  get isConnected() {
    return this.failures === 0;
  }

  add(kind, study, body) {
    delete this.drafts[study];
    delete this.sent[study];
    this.entries.push({ kind, study, body });
    this.store();
    this.flush();
  }

  /** Keep a draft here and on the server; a later one of the same study takes its place. */
  keepDraft(study, statement) {
    this.drafts[study] = statement;
    this.store();
    this.flush();
  }

  store() {
    localStorage.setItem(this.name, JSON.stringify(this.entries));
    localStorage.setItem(this.draftName, JSON.stringify(this.drafts));
  }

  async flush() {
    if (this.isSending) return;
    this.isSending = true;
    try {
      while (this.entries.length || Object.keys(this.drafts).length) {
        await this.sendNext();
        this.note(0);
      }
    } catch (error) {
      this.handleFailure(error);
    } finally {
      this.isSending = false;
    }
  }

  async sendNext() {
    const [entry] = this.entries;
    if (entry) {
      const answer = await request("POST", `/label/${entry.kind}?study=${entry.study}`, entry.body).catch((error) => this.dropRefused(error));
      this.entries.shift();
      this.store();
      if (answer) this.dispatchEvent(new CustomEvent("sent", { detail: { entry, answer } }));
      return;
    }
    const [study] = Object.keys(this.drafts);
    const draft = this.drafts[study];
    await request("PUT", `/label/draft?study=${study}`, draft).catch((error) => this.dropRefused(error));
    this.sent[study] = draft;
    if (this.drafts[study] === draft) delete this.drafts[study];
    this.store();
  }

  /** The newest draft of a study that this page knows; undefined: none. */
  findDraft(study) {
    return this.drafts[study] ?? this.sent[study];
  }

  /** A statement that the server will never take is shown, not sent for ever. */
  dropRefused(error) {
    if (!(error instanceof Refusal) || error.status !== 422) throw error;
    this.dispatchEvent(new CustomEvent("refused", { detail: error.message }));
    return null;
  }

  handleFailure(error) {
    if (error instanceof Refusal && (error.status === 401 || error.status === 403)) {
      this.dispatchEvent(new Event("ended"));
      return;
    }
    const wait = RETRY_MILLISECONDS[Math.min(this.failures, RETRY_MILLISECONDS.length - 1)];
    this.note(this.failures + 1);
    setTimeout(() => this.flush(), wait);
  }

  note(failures) {
    this.failures = failures;
    this.dispatchEvent(new Event("connection"));
  }
}
