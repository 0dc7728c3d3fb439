package metastore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"sort"
	"sync"
	"testing"

	"github.com/firnlog/firn/record"
)

func TestTierPointers(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(2)})
	p, err := s.TierPointer(ctx, topic.ID, 0)
	if err != nil || p.Revision != 0 || p.Value != nil {
		t.Fatalf("before the first: %+v, %v", p, err)
	}
	rev, err := s.CommitTierPointer(ctx, topic.ID, 0, 0, 0, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = s.TierPointer(ctx, topic.ID, 0); err != nil || p.Revision != rev || string(p.Value) != "one" {
		t.Fatalf("%+v, %v", p, err)
	}
	conflict := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
	commit := func(id record.TopicID, part record.PartitionID, expect int64, epoch record.Epoch) error {
		_, err := s.CommitTierPointer(ctx, id, part, expect, epoch, []byte("two"))
		return err
	}
	conflict("expects none", commit(topic.ID, 0, 0, 0))
	conflict("expects another", commit(topic.ID, 0, rev+1, 0))
	conflict("expects one where there is none", commit(topic.ID, 1, rev, 0))
	conflict("old epoch", commit(topic.ID, 0, rev, -1))
	conflict("later epoch", commit(topic.ID, 0, rev, 1))
	conflict("no such partition", commit(topic.ID, 2, 0, 0))
	conflict("negative partition", commit(topic.ID, -1, 0, 0))
	conflict("no such topic", commit(record.TopicID{1}, 0, 0, 0))
	// A partition that belongs to no topic yet.
	if _, err := s.srv.cli.Put(ctx, partitionKey(record.TopicID{2}, 0), string(encodePartition(topic.Partitions[0]))); err != nil {
		t.Fatal(err)
	}
	conflict("unfinished topic", commit(record.TopicID{2}, 0, 0, 0))
	if _, err := s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, make([]byte, MaxTierPointer+1)); err == nil || errors.Is(err, ErrConflict) {
		t.Errorf("too large: %v", err)
	}

	// The ISR changes: the commit goes through. The leader changes: it fails.
	part := topic.Partitions[0]
	part.PartitionEpoch++
	if _, err := s.srv.cli.Put(ctx, partitionKey(topic.ID, 0), string(encodePartition(part))); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte{7}, MaxTierPointer)
	if rev, err = s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, large); err != nil {
		t.Fatal(err)
	}
	part.Epoch++
	if _, err := s.srv.cli.Put(ctx, partitionKey(topic.ID, 0), string(encodePartition(part))); err != nil {
		t.Fatal(err)
	}
	conflict("deposed leader", commit(topic.ID, 0, rev, 0))

	// Deleted topics keep their pointers, but nobody can commit to them.
	if _, err := s.DeleteTopic(ctx, topic.ID); err != nil {
		t.Fatal(err)
	}
	conflict("deleted topic", commit(topic.ID, 0, rev, 1))
	n := 0
	for e, err := range s.TierPointers(ctx) {
		if err != nil || e.ID != topic.ID || e.Partition != 0 || e.Revision != rev || !bytes.Equal(e.Value, large) {
			t.Fatalf("listed %v-%v at %d, %v", e.ID, e.Partition, e.Revision, err)
		}
		n++
	}
	if n != 1 {
		t.Fatalf("%d pointers are listed", n)
	}
	conflict("delete another", s.DeleteTierPointer(ctx, topic.ID, 0, rev-1))
	conflict("delete none", s.DeleteTierPointer(ctx, topic.ID, 0, 0))
	if err := s.DeleteTierPointer(ctx, topic.ID, 0, rev); err != nil {
		t.Fatal(err)
	}
	conflict("deleted twice", s.DeleteTierPointer(ctx, topic.ID, 0, rev))
	for e, err := range s.TierPointers(ctx) {
		t.Fatalf("listed %+v, %v", e, err)
	}
}

// The list goes over several pages and stops when its reader does.
func TestTierPointersPages(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	const n = 2*tierPage + 3
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(n)})
	for i := range n {
		if _, err := s.CommitTierPointer(ctx, topic.ID, record.PartitionID(i), 0, 0, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	next := record.PartitionID(0)
	for e, err := range s.TierPointers(ctx) {
		if err != nil || e.Partition != next {
			t.Fatalf("partition %d after %d, %v", e.Partition, next-1, err)
		}
		next++
	}
	if next != n {
		t.Fatalf("%d of %d are listed", next, n)
	}
	for range s.TierPointers(ctx) {
		break
	}
}

// Of committers that race for a pointer, each commit is seen by the next one:
// a counter kept in it counts every success.
func TestPointerCompareAndSwap(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	const committers, each = 8, 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	conflicts := 0
	for range committers {
		wg.Go(func() {
			for done := 0; done < each; {
				p, err := s.TierPointer(ctx, topic.ID, 0)
				if err != nil {
					t.Error(err)
					return
				}
				n := uint64(0)
				if p.Revision != 0 {
					n = binary.BigEndian.Uint64(p.Value)
				}
				_, err = s.CommitTierPointer(ctx, topic.ID, 0, p.Revision, 0, binary.BigEndian.AppendUint64(nil, n+1))
				switch {
				case err == nil:
					done++
				case errors.Is(err, ErrConflict):
					mu.Lock()
					conflicts++
					mu.Unlock()
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	p, err := s.TierPointer(ctx, topic.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint64(p.Value); n != committers*each {
		t.Fatalf("%d commits succeeded, the pointer counts %d", committers*each, n)
	}
	if conflicts == 0 {
		t.Error("nothing ever clashed: the test shows nothing")
	}
}

func TestProducerIDs(t *testing.T) {
	ctx := testCtx(t)
	dir := t.TempDir()
	s := openStore(t, dir)
	type block struct{ first, n int64 }
	var mu sync.Mutex
	var blocks []block
	take := func(n int64) {
		first, err := s.AllocateProducerIDs(ctx, n)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		blocks = append(blocks, block{first, n})
		mu.Unlock()
	}
	for range 3 {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 10 {
					take(int64(i + 1))
				}
			})
		}
		wg.Wait()
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir)
	}
	sort.Slice(blocks, func(i, j int) bool { return blocks[i].first < blocks[j].first })
	next := int64(0)
	for _, b := range blocks {
		if b.first != next {
			t.Fatalf("a block starts at %d, the one before ends at %d", b.first, next)
		}
		next = b.first + b.n
	}
	for _, n := range []int64{0, -1, MaxProducerIDs + 1} {
		if _, err := s.AllocateProducerIDs(ctx, n); err == nil {
			t.Errorf("%d ids were given", n)
		}
	}
	// Another process has taken ids meanwhile; and at the end there are none.
	if _, err := s.srv.cli.Put(ctx, producerIDKey, string(encodeProducerID(math.MaxInt64-5))); err != nil {
		t.Fatal(err)
	}
	if first, err := s.AllocateProducerIDs(ctx, 5); err != nil || first != math.MaxInt64-5 {
		t.Errorf("%d, %v", first, err)
	}
	if first, err := s.AllocateProducerIDs(ctx, 1); err == nil {
		t.Errorf("id %d was given after the last", first)
	}
}
