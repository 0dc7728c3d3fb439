package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
)

// flight is one row of the input.
type flight struct {
	timeMs          int64 // departure, milliseconds since the Unix epoch
	delay, distance int32
	origin, dest    [3]byte
}

// flights is the input in its own order, which is that of time.
type flights []flight

// readFlights reads at most limit rows of the Parquet file (0: all) and calls
// progress with the number read so far.
func readFlights(path string, limit int, progress func(int)) (flights, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pf, err := parquet.OpenFile(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	total := int(pf.NumRows())
	if limit > 0 {
		total = min(total, limit)
	}
	all := make(flights, 0, total)
	buf := make([]parquet.Row, 1024)
	for _, group := range pf.RowGroups() {
		rows := group.Rows()
		for len(all) < total {
			n, err := rows.ReadRows(buf[:min(len(buf), total-len(all))])
			for _, r := range buf[:n] {
				fl, ferr := toFlight(r)
				if ferr != nil {
					rows.Close()
					return nil, fmt.Errorf("%s, row %d: %w", path, len(all), ferr)
				}
				all = append(all, fl)
			}
			progress(len(all))
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				rows.Close()
				return nil, fmt.Errorf("%s, row %d: %w", path, len(all), err)
			}
		}
		rows.Close()
	}
	for i := 1; i < len(all); i++ {
		if all[i].timeMs < all[i-1].timeMs {
			return nil, fmt.Errorf("%s: row %d is earlier than the row before it; the demo counts on input in the order of time", path, i)
		}
	}
	return all, nil
}

func toFlight(r parquet.Row) (flight, error) {
	if len(r) != 5 || len(r[3].ByteArray()) != 3 || len(r[4].ByteArray()) != 3 {
		return flight{}, fmt.Errorf("not a flight: %v", r)
	}
	fl := flight{timeMs: r[0].Int64() / 1000, delay: int32(r[1].Int64()), distance: int32(r[2].Int64())}
	copy(fl.origin[:], r[3].ByteArray())
	copy(fl.dest[:], r[4].ByteArray())
	return fl, nil
}

// key is the airport the flight leaves from.
func (f *flight) key() []byte { return f.origin[:] }

// appendJSON appends the flight as one JSON object.
func (f *flight) appendJSON(b []byte) []byte {
	b = append(b, `{"date":"`...)
	b = time.UnixMilli(f.timeMs).UTC().AppendFormat(b, "2006-01-02T15:04:05")
	b = append(b, `","delay":`...)
	b = strconv.AppendInt(b, int64(f.delay), 10)
	b = append(b, `,"distance":`...)
	b = strconv.AppendInt(b, int64(f.distance), 10)
	b = append(b, `,"origin":"`...)
	b = append(b, f.origin[:]...)
	b = append(b, `","destination":"`...)
	b = append(b, f.dest[:]...)
	return append(b, `"}`...)
}

// day finds the rows [from, to) of the UTC day that begins at startMs.
func (fs flights) day(startMs int64) (from, to int) {
	end := startMs + 24*time.Hour.Milliseconds()
	for from < len(fs) && fs[from].timeMs < startMs {
		from++
	}
	for to = from; to < len(fs) && fs[to].timeMs < end; to++ {
	}
	return from, to
}
