package balance

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

// What a broker says of its partitions arrives, whatever else is in the tags.
func TestLoads(t *testing.T) {
	answer := func(size, in, out int64) *kmsg.DescribeLogDirsResponse {
		resp := kmsg.NewPtrDescribeLogDirsResponse()
		resp.Version = 4
		p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		p.Partition, p.Size = 3, size
		TagTraffic(&p, in, out)
		topic := kmsg.NewDescribeLogDirsResponseDirTopic()
		topic.Topic, topic.Partitions = "t", append(topic.Partitions, p)
		dir := kmsg.NewDescribeLogDirsResponseDir()
		dir.Topics = append(dir.Topics, topic)
		resp.Dirs = append(resp.Dirs, dir)
		got := kmsg.NewPtrDescribeLogDirsResponse()
		got.Version = 4
		if err := got.ReadFrom(resp.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
		return got
	}
	l := Loads{}
	l.Add(answer(5000, 100, 30)) // the leader
	l.Add(answer(6000, 0, 12))   // a follower that is compacted later, and read from
	l.Add(answer(4000, 0, 0))
	tp := record.TopicPartition{Topic: "t", Partition: 3}
	if want := (Carried{Bytes: 6000, In: 100, Out: 42}); len(l) != 1 || l[tp] != want {
		t.Errorf("%+v, want %+v", l, want)
	}
	l = Loads{}
	l.Add(answer(1, 1<<62, 1<<62))
	if c := l[tp]; c.In != most || c.Out != most {
		t.Errorf("%+v", c)
	}
}

// Bytes that make no sense are no traffic, and harm nobody.
func TestTrafficNonsense(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		p.UnknownTags.Set(trafficTag, rapid.SliceOfN(rapid.Byte(), 0, 25).Draw(t, "tag"))
		if in, out := taggedTraffic(&p); in < 0 || out < 0 || in > most || out > most {
			t.Fatal(in, out)
		}
	})
}
