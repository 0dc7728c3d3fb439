package partition

import (
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
)

// checkProducer judges a client's batch by what is known of its producer, as
// Kafka's ProducerAppendInfo does (KIP-98, KIP-360), with one difference: a
// producer of whom the partition knows nothing must begin with sequence 0.
// Kafka takes any number then, and so lets the second of two pipelined
// batches in after the first was refused; that reorders. When the state may
// have been known and dropped since (expired, pushed out, or its snapshot and
// records are gone) the answer is UNKNOWN_PRODUCER_ID, on which producers
// bump their epoch and go on; otherwise it is OUT_OF_ORDER_SEQUENCE_NUMBER,
// on which they send the earlier batch first.
//
// dup is the batch itself when it is one of the last five: it was appended
// before, and its answer was lost.
func checkProducer(ps *commitlog.Producers, b record.Batch) (dup *commitlog.Appended, err error) {
	id, epoch, seq := b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()
	if id < 0 {
		return nil, nil
	}
	p := ps.Get(id)
	switch {
	case p == nil:
		if seq == 0 {
			return nil, nil
		}
		if ps.Forgotten(id) {
			return nil, fmt.Errorf("%w: nothing is known any more of producer %d, which sends sequence %d", kerr.UnknownProducerID, id, seq)
		}
		return nil, fmt.Errorf("%w: producer %d begins with sequence %d, must be 0", kerr.OutOfOrderSequenceNumber, id, seq)
	case epoch < p.Epoch:
		return nil, fmt.Errorf("%w: producer %d sends epoch %d, %d was seen", kerr.InvalidProducerEpoch, id, epoch, p.Epoch)
	case epoch > p.Epoch:
		if seq != 0 {
			return nil, fmt.Errorf("%w: producer %d begins epoch %d with sequence %d, must be 0", kerr.OutOfOrderSequenceNumber, id, epoch, seq)
		}
		return nil, nil
	}
	for _, a := range p.Batches() {
		if a.FirstSequence() == seq && a.LastSequence == b.LastSequence() {
			return &a, nil
		}
	}
	if want := nextSequence(p.LastSequence()); seq != want {
		return nil, fmt.Errorf("%w: producer %d sends sequence %d, want %d", kerr.OutOfOrderSequenceNumber, id, seq, want)
	}
	return nil, nil
}

// nextSequence goes from 2^31-1 on to 0.
func nextSequence(last int32) int32 {
	if last == math.MaxInt32 {
		return 0
	}
	return last + 1
}

// checkCoordinator judges the broker's own batches: of a producer that went
// on to a later epoch, nothing is taken.
func checkCoordinator(ps *commitlog.Producers, b record.Batch) error {
	if id := b.ProducerID(); id >= 0 {
		if p := ps.Get(id); p != nil && b.ProducerEpoch() < p.Epoch {
			return fmt.Errorf("%w: producer %d has epoch %d, %d was seen", kerr.InvalidProducerEpoch, id, b.ProducerEpoch(), p.Epoch)
		}
	}
	return nil
}
