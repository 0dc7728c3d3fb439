package broker

import (
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// What a broker hands over is what another one in sync can take; it stays in
// sync for the others until their ISRs are without it.
func TestStillNeeded(t *testing.T) {
	img := &metastore.Image{Brokers: map[record.BrokerID]metastore.Broker{}, Unfenced: map[record.BrokerID]metastore.Unfenced{}, Topics: map[string]*metastore.Topic{}}
	for id := record.BrokerID(1); id <= 3; id++ {
		img.Brokers[id], img.Unfenced[id] = metastore.Broker{ID: id, Epoch: 5, Leaving: id == 3}, metastore.Unfenced{Epoch: 5}
	}
	type ids = []record.BrokerID
	img.Topics["t"] = &metastore.Topic{Name: "t", Partitions: []metastore.Partition{
		{ID: 0, Leader: 1, ISR: ids{1, 2}},
		{ID: 1, Leader: 2, ISR: ids{2, 1}},
		{ID: 2, Leader: 2, ISR: ids{2}},
		{ID: 3, Leader: 1, ISR: ids{1}},
		{ID: 4, Leader: 1, ISR: ids{1, 3}}, // 3 leaves, too
	}}
	for name, c := range map[string]struct {
		of   []record.TopicPartition
		want []record.PartitionID
	}{
		"led":     {slices.Collect(stillLed(img, 1)), []record.PartitionID{0}},
		"in sync": {slices.Collect(stillInSync(img, 1)), []record.PartitionID{0, 1}},
	} {
		var got []record.PartitionID
		for _, tp := range c.of {
			got = append(got, tp.Partition)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
