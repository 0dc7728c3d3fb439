package metastore

import (
	"fmt"
	"slices"
	"testing"
)

// BenchmarkLead writes 10,000 partition records as an election of all of them
// does, with one member and with three, and waits until the image has them.
func BenchmarkLead(b *testing.B) {
	const partitions = 10_000
	for _, members := range []int{1, 3} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			ctx := testCtx(b)
			c := newCluster(b, members)
			c.open(c.ids()...)
			c.register(c.ids()...)
			img := until(b, c.stores[1], "a controller", func(img *Image) bool { return img.Controller > 0 })
			s := c.stores[img.Controller]
			controller, _ := s.ControllerEpoch()
			topic := create(b, s, TopicSpec{Name: "a", Assignment: assign(partitions)})
			parts := slices.Clone(topic.Partitions)
			for b.Loop() {
				changes := make([]PartitionChange, len(parts))
				for i := range parts {
					parts[i].Epoch++
					changes[i] = PartitionChange{topic.ID, parts[i]}
				}
				revisions, err := s.Lead(ctx, controller, changes)
				if err != nil || slices.Contains(revisions, 0) {
					b.Fatal(err)
				}
				for i, r := range revisions {
					parts[i].Revision = r
				}
				waitFor(b, s, slices.Max(revisions))
			}
			b.ReportMetric(partitions*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
