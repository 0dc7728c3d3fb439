package timeline

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/firnlog/firn/test/chaos/history"
)

// The picture is well-formed XML and shows faults, leaders, clients and marks.
func TestDrawing(t *testing.T) {
	d := New(1000)
	events := []history.Event{
		{Time: 1, Kind: history.Client, Process: 1, Text: `producer <1> & "two"`},
		{Time: 1, Kind: history.Client, Process: 2, Text: "reader/1"},
		{Time: 1, Kind: history.Client, Process: 3, Text: "reader/2"},
		{Time: 1, Kind: history.Partition, Key: 0, Text: "topic"},
		{Time: 1, Kind: history.Partition, Key: 1, Text: "never led"},
		{Time: 10, Kind: history.Leader, Broker: 1, Epoch: 1},
		{Time: 100, Kind: history.Fault, Number: 1, Text: "kill 1"},
		{Time: 150, Kind: history.Leader, Broker: 2, Epoch: 2},
		{Time: 160, Kind: history.Leader, Broker: -1, Epoch: 2},
		{Time: 200, Kind: history.Fault, Number: 2, Text: "cut 2 from 3"},
		{Time: 300, Kind: history.Heal, Number: 1, Text: "is back"},
		{Time: 400, Kind: history.Fault, Number: 3, Text: "pause 3"},
		{Time: 500, Kind: history.Heal, Number: 77},
		{Time: 500, Kind: history.Acked, Process: 1},
		{Time: 2000, Kind: history.Unknown, Process: 1}, // later than the end that was said
		{Time: 500, Kind: history.Failed, Process: 1},
		{Time: 500, Kind: history.Poll, Process: 1, Records: make([]history.Record, 3)},
		{Time: 500, Kind: history.Poll, Process: 9},
	}
	for i := range events {
		if err := d.Event(int64(i), &events[i]); err != nil {
			t.Fatal(err)
		}
	}
	d.Mark(700, "lost-write: x")
	d.Mark(-1, "without a time")
	for range 2 * maxMarks {
		d.Mark(1, "many")
	}
	var b bytes.Buffer
	if err := d.WriteSVG(&b, "seed 1 & more"); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	count := map[string]int{}
	dec := xml.NewDecoder(strings.NewReader(out))
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if s, ok := tok.(xml.StartElement); ok {
			count[s.Name.Local]++
		}
	}
	// Bars of three faults and three leaders, four columns of the client, the background.
	if count["svg"] != 1 || count["rect"] != 3+3+4+1 || count["g"] != 6 || count["path"] != 11+maxMarks {
		t.Errorf("%v\n%s", count, out)
	}
	for _, want := range []string{"seed 1 &amp; more", "kill 1: is back", "topic-0: broker 2, epoch 2", "lost-write: x", "&lt;1&gt; &amp;", ">none<"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not there", want)
		}
	}
	if strings.Contains(out, "never led") || strings.Contains(out, "without a time") {
		t.Error("something is there that should not be")
	}
	if len(d.rows) != 2 {
		t.Errorf("%d rows of clients: lives of one share a row", len(d.rows))
	}
	if len(d.stack()) != 2 {
		t.Errorf("%d rows of faults: 1 and 2 overlap, 3 fits after 1", len(d.stack()))
	}
	if err := d.WriteSVG(failing{}, ""); err == nil {
		t.Error("an error of the file is not told")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }
