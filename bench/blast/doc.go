// Package blast drives a broker at the least cost to itself: it sends Produce
// requests whose record batches were encoded beforehand and reads Fetch
// responses without looking at more than the batches' sizes and offsets, most
// of which the kernel throws away uncopied. So what is measured is the broker.
// An ordinary client, franz-go, costs about as much as the broker itself
// (bench/franz).
//
// Produce and Consume go as fast as the broker lets them; OpenLoop sends at a
// fixed rate and measures latency from the time at which a batch should have
// been sent, so that a broker that stalls cannot hide what waited.
//
// Requests are of versions that Apache Kafka 4 and Firn both answer and that
// are cheap to write by hand: Produce 8, Fetch 11 without a session.
package blast
