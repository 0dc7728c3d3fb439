package balance

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// Carried is what a partition carries.
type Carried struct {
	Bytes   int64 // on disk, of one replica
	In, Out int64 // bytes per second, from producers and to consumers
}

// trafficTag is the tagged field (KIP-482) in which a broker says, for each
// partition in its answer to DescribeLogDirs, what goes through it: bytes per
// second in and out, two unsigned varints. Kafka has no such field, and tags
// from 0 on; who does not know it passes over it.
const trafficTag = 0x4649

// TagTraffic adds what goes through a partition to what is said of it; without
// traffic there is no tag.
func TagTraffic(p *kmsg.DescribeLogDirsResponseDirTopicPartition, in, out int64) {
	if in <= 0 && out <= 0 {
		return
	}
	b := binary.AppendUvarint(nil, uint64(max(0, in)))
	p.UnknownTags.Set(trafficTag, binary.AppendUvarint(b, uint64(max(0, out))))
}

// taggedTraffic reads the tag; zeroes where it is not there, or nonsense.
func taggedTraffic(p *kmsg.DescribeLogDirsResponseDirTopicPartition) (in, out int64) {
	p.UnknownTags.Each(func(tag uint32, b []byte) {
		if tag != trafficTag {
			return
		}
		i, n := binary.Uvarint(b)
		if n <= 0 {
			return
		}
		if o, m := binary.Uvarint(b[n:]); m > 0 {
			in, out = int64(min(i, most)), int64(min(o, most))
		}
	})
	return in, out
}

// most is what a number that another broker told counts for at most, so that
// sums of them are whole numbers still: a petabyte.
const most = 1 << 50

// Loads are what partitions carry, as brokers told it.
type Loads map[record.TopicPartition]Carried

// Add takes in one broker's answer to DescribeLogDirs. Of replicas that differ
// the largest counts, since that is what one that is moved comes to.
func (l Loads) Add(resp *kmsg.DescribeLogDirsResponse) {
	for i := range resp.Dirs {
		for j := range resp.Dirs[i].Topics {
			t := &resp.Dirs[i].Topics[j]
			for k := range t.Partitions {
				p := &t.Partitions[k]
				if p.IsFuture {
					continue
				}
				tp := record.TopicPartition{Topic: t.Topic, Partition: record.PartitionID(p.Partition)}
				c := l[tp]
				in, out := taggedTraffic(p)
				c.Bytes = max(c.Bytes, min(p.Size, most))
				c.In, c.Out = max(c.In, in), min(c.Out+out, most)
				l[tp] = c
			}
		}
	}
}
