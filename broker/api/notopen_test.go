package api

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
)

// broken says that nothing could be opened here.
type broken struct{ Partitions }

func (broken) Get(string, record.PartitionID) *partition.Partition { return nil }
func (broken) OpenError(string, record.PartitionID) error          { return errors.New("the disk is odd") }

// TestPartitionThatDidNotOpen: its clients are told that it is the storage, and
// not that they should look for another leader.
func TestPartitionThatDidNotOpen(t *testing.T) {
	topic := makeTopic(t, 1)
	deps := shared.deps
	deps.Partitions = broken{shared}
	a := New(Config{BrokerID: testBroker}, deps)
	if _, err := a.open(topic, 0); !errors.Is(err, kerr.KafkaStorageError) || codeOf(err) != kerr.KafkaStorageError.Code {
		t.Errorf("got %v", err)
	}
	if _, err := a.open(topic, 1); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("of a partition that the topic does not have: %v", err)
	}
}
