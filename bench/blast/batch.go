package blast

import (
	"errors"
	"fmt"

	"github.com/firnlog/firn/record"
)

// Batches are encoded record batches v2, all of the same number of records,
// with different values, ready to be sent any number of times.
type Batches struct {
	Encoded [][]byte
	Records int   // in each
	Bytes   int64 // of each before compression, header included: what MB/s count
}

// Join makes values of exactly size bytes by joining rows with line ends; the
// last row of a value is cut. At most limit bytes of values are made, and no
// row is used twice.
func Join(rows [][]byte, size int, limit int64) [][]byte {
	var values [][]byte
	v := make([]byte, 0, size)
	for _, row := range rows {
		if int64(len(values)+1)*int64(size) > limit {
			break
		}
		v = append(v, row[:min(len(row), size-len(v))]...)
		if len(v) < size {
			v = append(v, '\n')
		}
		if len(v) == size {
			values = append(values, v)
			v = make([]byte, 0, size)
		}
	}
	return values
}

// Encode packs values into batches of at most size bytes before compression,
// as many as there are whole ones. The records have no keys and all the same
// timestamp (milliseconds); there is no producer id.
func Encode(values [][]byte, size int, codec record.Codec, timestamp int64) (*Batches, error) {
	if len(values) == 0 {
		return nil, errors.New("no values to make batches of")
	}
	// The overhead of a record depends on its place in the batch: the records
	// that fit are found with the first batch.
	pack := func(codec record.Codec, values [][]byte) (record.Batch, error) {
		recs := make([]record.Record, len(values))
		for i, v := range values {
			recs[i] = record.Record{Offset: record.Offset(i), Timestamp: timestamp, Value: v}
		}
		return record.NewBatch(record.BatchSpec{Codec: codec, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs)
	}
	n := max(min((size-record.HeaderSize)/len(values[0]), len(values)), 1)
	plain, err := pack(record.None, values[:n])
	for err == nil && len(plain) > size && n > 1 {
		n--
		plain, err = pack(record.None, values[:n])
	}
	if err != nil {
		return nil, err
	}
	if len(plain) > size {
		return nil, fmt.Errorf("a value of %d bytes does not fit into a batch of %d", len(values[0]), size)
	}
	b := &Batches{Records: n, Bytes: int64(len(plain))}
	for ; len(values) >= n; values = values[n:] {
		batch, err := pack(codec, values[:n])
		if err != nil {
			return nil, err
		}
		b.Encoded = append(b.Encoded, batch)
	}
	return b, nil
}
