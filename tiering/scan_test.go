package tiering

import (
	"bytes"
	"testing"

	"github.com/firnlog/firn/record"
)

// A batch that compaction left without records has none with its time.
func TestScanOfCompactedSegment(t *testing.T) {
	batch := func(o record.Offset, ts int64) record.Batch {
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: o, ProducerID: 1, BaseSequence: int32(o)}, []record.Record{{Offset: o, Timestamp: ts, Key: []byte("k"), Value: []byte("v")}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	data := append(append(batch(0, 900).Emptied(), batch(3, 100)...), batch(7, 901).Emptied()...)
	s, err := scan(&record.SealedFiles{
		Segment: record.Segment{End: 8, Bytes: int64(len(data))},
		Data:    bytes.NewReader(data),
	}, record.TopicPartition{Topic: "t"}, record.TopicID{1}, 0, &blockHash{block: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if s.run.MaxTimestamp != 100 || s.run.MaxTSOffset != 3 || s.run.Batches != 3 {
		t.Errorf("got %+v", s.run)
	}
}
