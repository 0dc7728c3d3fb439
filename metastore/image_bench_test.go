package metastore

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/firnlog/firn/record"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// benchTopics are shapes of 100,000 partitions.
var benchTopics = []struct{ topics, partitions int }{{10_000, 10}, {1000, 100}, {1, 100_000}}

type keyValue struct {
	key   string
	value []byte
}

// benchKeys are the keys of that many topics, with three replicas each.
func benchKeys(topics, partitions int) (kvs []keyValue) {
	for i := range topics {
		var id record.TopicID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		for p := range partitions {
			replicas := []record.BrokerID{record.BrokerID(p % 3), record.BrokerID((p + 1) % 3), record.BrokerID((p + 2) % 3)}
			kvs = append(kvs, keyValue{partitionKey(id, record.PartitionID(p)), encodePartition(Partition{Leader: replicas[0], Epoch: 5, PartitionEpoch: 9, Replicas: replicas, ISR: replicas})})
		}
		kvs = append(kvs,
			keyValue{configKey(id), encodeConfigs(map[string]string{"retention.ms": "1000"})},
			keyValue{topicKey(id), topicValue{Name: fmt.Sprintf("topic-%d", i), Partitions: int32(partitions)}.encode()})
	}
	return kvs
}

func benchState(b *testing.B, kvs []keyValue) *state {
	st := newState()
	for i, kv := range kvs {
		if err := st.put(kv.key, kv.value, int64(i+1), int64(i+1)); err != nil {
			b.Fatal(err)
		}
	}
	st.revision = int64(len(kvs))
	return st
}

// BenchmarkLoad reads 100,000 partitions from etcd into an image, as a start
// does. It also reports what they take in memory and in etcd's file.
func BenchmarkLoad(b *testing.B) {
	for _, shape := range benchTopics {
		b.Run(fmt.Sprintf("topics=%d", shape.topics), func(b *testing.B) {
			s := openRegistered(b, b.TempDir())
			ctx := testCtx(b)
			kvs := benchKeys(shape.topics, shape.partitions)
			for len(kvs) > 0 {
				n := min(len(kvs), 1000)
				var ops []clientv3.Op
				for _, kv := range kvs[:n] {
					ops = append(ops, clientv3.OpPut(kv.key, string(kv.value)))
				}
				if _, err := s.srv.cli.Txn(ctx).Then(ops...).Commit(); err != nil {
					b.Fatal(err)
				}
				kvs = kvs[n:]
			}
			var img *Image
			var before, after runtime.MemStats
			for b.Loop() {
				img = nil
				st, err := load(ctx, s.srv)
				if err != nil {
					b.Fatal(err)
				}
				img, _ = st.image(nil)
			}
			b.StopTimer()
			runtime.GC()
			runtime.ReadMemStats(&before)
			st, err := load(ctx, s.srv)
			if err != nil {
				b.Fatal(err)
			}
			more, _ := st.image(nil)
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "heapMB")
			b.ReportMetric(float64(s.srv.status().DbSizeInUse)/1e6, "etcdMB")
			if img.Partitions != 100_000 || more.Partitions != img.Partitions {
				b.Fatalf("%d partitions", img.Partitions)
			}
			runtime.KeepAlive(st)
		})
	}
}

// BenchmarkApply takes in a change of that many partition records among
// 100,000 and makes the next image.
func BenchmarkApply(b *testing.B) {
	for _, shape := range benchTopics {
		for _, changes := range []int{1, 1000} {
			b.Run(fmt.Sprintf("topics=%d/changes=%d", shape.topics, changes), func(b *testing.B) {
				kvs := benchKeys(shape.topics, shape.partitions)
				st := benchState(b, kvs)
				img, incomplete := st.image(nil)
				if len(incomplete) > 0 || img.Partitions != 100_000 {
					b.Fatal(incomplete, img.Partitions)
				}
				at := 0
				b.ReportAllocs()
				for b.Loop() {
					st.revision++
					for range changes {
						at = (at + 7919) % len(kvs) // far apart: one to a topic
						if err := st.put(kvs[at].key, kvs[at].value, 1, st.revision); err != nil {
							b.Fatal(err)
						}
					}
					img, _ = st.image(img)
				}
				if img.Partitions != 100_000 || img.Revision != st.revision {
					b.Fatal(img.Partitions, img.Revision)
				}
			})
		}
	}
}
