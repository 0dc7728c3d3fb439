// Package replica is the pure core of replication: what a leader, a follower
// and the controller decide, without clock, goroutine, lock, disk or socket.
// Events go in, decisions come out; the caller does the I/O, gives the time,
// and sees to it that one goroutine at a time uses a value. docs/cluster.md is
// the design, spec/replication.tla the protocol; names are the same.
//
//	Record     what the metadata says of a partition
//	Leader     one leader epoch at its leader: high watermark, ISR changes
//	Follower   one leader epoch at a replica: append, truncate, start anew
//	Elect      leader and ISR that follow from who is eligible
//	TakenIn    what becomes of a broker's replicas when it registered
//	Preferred  leadership back to the first replica
//	Reassign   replicas moved: begun, and ended by Progress
//
// # Invariants
//
// The simulation in this package checks them after every step.
//
//	(1) What was acknowledged with acks=all is in the log of whoever is in the
//	    ISR or the ELR; unless somebody asked for an unclean election, or so
//	    many replicas lost what they had that nobody could have kept it.
//	(2) Two replicas never differ below their high watermarks.
//	(4) One broker at most moves the high watermark of a leader epoch, and it
//	    never goes down in that epoch.
//
// Time is nanoseconds on any monotonic clock of one process: a Leader compares
// only times that it was given itself.
package replica
