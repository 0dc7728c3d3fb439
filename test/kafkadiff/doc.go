// Package kafkadiff asks a broker and Apache Kafka the same and compares the
// answers. A scenario is a conversation in a text file, with Kafka's recorded
// answers beside it; README.md describes both. The package knows no broker: it
// speaks to an address, with frames of its own and kmsg's structs. It holds the
// scenarios' language, the normalisation and the comparison; what is asked is
// in the folder scenarios.
package kafkadiff
