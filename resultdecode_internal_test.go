package podcni

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/stretchr/testify/require"
)

// fullResults are results with everything that their version knows.
var fullResults = map[string]string{
	"0.1.0": `{"cniVersion":"0.1.0","ip4":{"ip":"10.0.0.5/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]},"dns":{"nameservers":["10.0.0.53"]}}`,
	"0.2.0": `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"},"ip6":{"ip":"2001:db8::5/64","routes":[{"dst":"::/0"}]},"dns":{"domain":"a.example"}}`,
	"0.3.0": `{"cniVersion":"0.3.0","interfaces":[{"name":"eth0","mac":"aa:bb:cc:dd:ee:ff","sandbox":"/ns"}],"ips":[{"version":"4","address":"10.0.0.5/24","gateway":"10.0.0.1","interface":0}]}`,
	"0.3.1": `{"cniVersion":"0.3.1","ips":[{"version":"6","address":"2001:db8::5/64"}],"routes":[{"dst":"::/0","gw":"2001:db8::1"}],"dns":{"search":["a","b"],"options":["x"]}}`,
	"0.4.0": `{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],"ips":[{"version":"4","address":"10.0.0.5/24","interface":0}],"routes":[{"dst":"10.0.0.0/8"}]}`,
	"1.0.0": `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.5/24","interface":0}],"dns":{}}`,
	"1.1.0": `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400,"socketPath":"/s","pciID":"0"}],"ips":[{"address":"10.0.0.5/24","interface":7}],"routes":[{"dst":"::/0","mtu":1,"advmss":2,"priority":3,"table":4,"scope":5}]}`,
}

func TestDecodeResultAgreesWithLibcni(t *testing.T) {
	t.Parallel()
	for version, text := range fullResults {
		want, err := create.Create(version, []byte(text))
		require.NoError(t, err)

		got, raw, err := decodeResult([]byte("\n "+text+" \n"), version)
		require.NoError(t, err, version)
		require.Equal(t, want, got, version)
		require.Equal(t, text, string(raw), "the plugin's text goes on as it is")

		got, err = readResult(json.RawMessage(text), version)
		require.NoError(t, err, version)
		require.Equal(t, want, got, version)
	}
}

func TestDecodeResultConvertsAsLibcniDoes(t *testing.T) {
	t.Parallel()
	for from, text := range fullResults {
		for to := range fullResults {
			if from == to {
				continue
			}
			res, err := create.Create(from, []byte(text))
			require.NoError(t, err)
			want, err := res.GetAsVersion(to)
			require.NoError(t, err)

			got, raw, err := decodeResult([]byte(text), to)
			require.NoError(t, err, "%s to %s", from, to)
			require.Equal(t, to, got.Version())
			wantText, err := json.Marshal(want)
			require.NoError(t, err)
			require.JSONEq(t, string(wantText), string(raw), "%s to %s", from, to)

			got, err = readResult(json.RawMessage(text), to)
			require.NoError(t, err)
			gotText, err := json.Marshal(got)
			require.NoError(t, err)
			require.JSONEq(t, string(wantText), string(gotText))
		}
	}
}

func TestDecodeResultKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	text := `{"cniVersion":"1.0.0","vendor":{"a":[null,1]},"ip4":"not of this version"}`
	_, raw, err := decodeResult([]byte(text), "1.0.0")
	require.NoError(t, err)
	require.Equal(t, text, string(raw))
}

func TestDecodeResultWithoutItsVersion(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, version, raw string }{
		"absent":            {`{"ips":[{"address":"10.0.0.5/24"}],"vendor":1}`, "1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24"}],"vendor":1}`},
		"empty":             {`{"cniVersion":""}`, "0.4.0", `{"cniVersion":"0.4.0"}`},
		"a number":          {`{"cniVersion":1.0}`, "1.1.0", `{"cniVersion":"1.1.0"}`},
		"null":              {`{"cniVersion":null}`, "1.1.0", `{"cniVersion":"1.1.0"}`},
		"an object":         {`{"CNIVersion":{"a":1},"cniVersion":[]}`, "1.1.0", `{"cniVersion":"1.1.0"}`},
		"nor the network's": {`{"ip4":{"ip":"10.0.0.5/24"}}`, "", `{"cniVersion":"0.1.0","ip4":{"ip":"10.0.0.5/24"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, raw, err := decodeResult([]byte(tt.text), tt.version)
			require.NoError(t, err)
			require.JSONEq(t, tt.raw, string(raw))
			require.Equal(t, versionOrFirst(tt.version), res.Version())
			again, err := create.CreateFromBytes(raw)
			require.NoError(t, err)
			require.Equal(t, again, res)

			kept, err := readResult(json.RawMessage(tt.text), tt.version)
			require.NoError(t, err)
			require.Equal(t, res, kept)
		})
	}
}

func TestDecodeResultAfterALog(t *testing.T) {
	t.Parallel()
	const text = "{\n \"cniVersion\": \"1.0.0\"\n}"
	for _, log := range []string{"warning: x\n", "a {b\n  {\"c\":1}\r\n", "2026/01/02 a\nb\n\n"} {
		_, raw, err := decodeResult([]byte(log+text+"\n"), "1.0.0")
		require.NoError(t, err, log)
		require.Equal(t, text, string(raw))
	}
}

func TestDecodeResultRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		err  error
	}{
		"nothing":               {"", ErrNoOutput},
		"blanks":                {" \n\t", ErrNoOutput},
		"null":                  {"null", ErrBadOutput},
		"a list":                {`[{"cniVersion":"1.0.0"}]`, ErrBadOutput},
		"a string":              {`"1.0.0"`, ErrBadOutput},
		"a log alone":           {"it works\nalmost", ErrBadOutput},
		"a log on the line":     {`log {"cniVersion":"1.0.0"}`, ErrBadOutput},
		"half":                  {`{"cniVersion":"1.0.0","ips":[{"addr`, ErrBadOutput},
		"more after it":         {`{"cniVersion":"1.0.0"} done`, ErrBadOutput},
		"two objects":           {"{\"cniVersion\":\"1.0.0\"}\n{}", ErrBadOutput},
		"null IP":               {`{"cniVersion":"1.0.0","ips":[null]}`, ErrBadOutput},
		"null interface":        {`{"cniVersion":"0.4.0","interfaces":[null]}`, ErrBadOutput},
		"null route":            {`{"cniVersion":"1.0.0","routes":[null]}`, ErrBadOutput},
		"null route before 0.3": {`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24","routes":[null]}}`, ErrBadOutput},
		"null to convert":       {`{"cniVersion":"1.1.0","ips":[null]}`, ErrBadOutput},
		"IP without address":    {`{"cniVersion":"1.0.0","ips":[{}]}`, ErrBadOutput},
		"the same before 0.3":   {`{"cniVersion":"0.2.0","ip6":{}}`, ErrBadOutput},
		"route without dst":     {`{"cniVersion":"1.0.0","routes":[{}]}`, ErrBadOutput},
		"bad address":           {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5"}]}`, ErrBadOutput},
		"bad gateway":           {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"x"}]}`, ErrBadOutput},
		"IPs as an object":      {`{"cniVersion":"1.0.0","ips":{}}`, ErrBadOutput},
		"index as a string":     {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","interface":"0"}]}`, ErrBadOutput},
		"ip4 as a string":       {`{"cniVersion":"0.2.0","ip4":"10.0.0.5/24"}`, ErrBadOutput},
		"DNS as a list":         {`{"cniVersion":"1.0.0","dns":[]}`, ErrBadOutput},
		"a code that is none":   {`{"cniVersion":"1.0.0","code":"7","msg":"x"}`, ErrBadOutput},
		"a negative code":       {`{"cniVersion":"1.0.0","code":-1,"msg":"x"}`, ErrBadOutput},
		"a later version":       {`{"cniVersion":"2.0.0"}`, ErrVersion},
		"no version":            {`{"cniVersion":"one"}`, ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, raw, err := decodeResult([]byte(tt.text), "1.0.0")
			require.ErrorIs(t, err, tt.err)
			require.Nil(t, res)
			require.Nil(t, raw)
		})
	}
	t.Run("what the network's version cannot say", func(t *testing.T) {
		t.Parallel()
		_, _, err := decodeResult([]byte(`{"cniVersion":"1.0.0"}`), "0.2.0")
		require.ErrorIs(t, err, ErrVersion)
		_, err = readResult(json.RawMessage(`{"cniVersion":"1.0.0"}`), "0.2.0")
		require.ErrorIs(t, err, ErrVersion)
	})
	t.Run("a network of an unknown version", func(t *testing.T) {
		t.Parallel()
		_, _, err := decodeResult([]byte(`{}`), "7.0.0")
		require.ErrorIs(t, err, ErrVersion)
		_, _, err = decodeResult([]byte(`{"cniVersion":"1.0.0"}`), "7.0.0")
		require.ErrorIs(t, err, ErrVersion)
	})
	t.Run("what a record holds", func(t *testing.T) {
		t.Parallel()
		for _, text := range []string{`[]`, `{`, `{"ips":[null]}`, `{"ips":1}`} {
			_, err := readResult(json.RawMessage(text), "1.0.0")
			require.ErrorIs(t, err, ErrBadOutput, text)
		}
	})
}

func TestDecodeResultGivesThePluginsError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]types.Error{
		`{"cniVersion":"1.0.0","code":11,"msg":"later","details":"much"}`:   {Code: 11, Msg: "later", Details: "much"},
		"a log\n{\"code\":100,\"msg\":null,\"details\":{\"not\":\"text\"}}": {Code: 100},
		`{"cniVersion":"9.9.9","code":1,"msg":"version"}`:                   {Code: 1, Msg: "version"},
	} {
		_, _, err := decodeResult([]byte(text), "1.0.0")
		var got *types.Error
		require.ErrorAs(t, err, &got, text)
		require.Equal(t, want, *got)
		require.ErrorContains(t, err, fmt.Sprint(want.Code))
	}
	_, _, err := decodeResult([]byte(`{"code":7,"msg":"`+strings.Repeat("x", 1<<20)+`"}`), "1.0.0")
	require.Less(t, len(err.Error()), 1<<16)
	for _, text := range []string{`{"code":0}`, `{"code":null}`} {
		_, _, err := decodeResult([]byte(text), "1.0.0")
		require.NoError(t, err, text)
	}
}

func TestReadResultOfNothing(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", " ", "null", "\nnull "} {
		res, err := readResult(json.RawMessage(raw), "1.0.0")
		require.NoError(t, err)
		require.Nil(t, res)
	}
}

func TestConvertResultContainsPanics(t *testing.T) {
	t.Parallel()
	_, err := convertResult(&types100.Result{CNIVersion: "1.1.0", IPs: []*types100.IPConfig{nil}}, "0.4.0")
	require.ErrorIs(t, err, ErrBadOutput)
}

func FuzzDecodeResult(f *testing.F) {
	for version, text := range fullResults {
		f.Add([]byte(text), version)
		f.Add([]byte("log\n"+text), "0.2.0")
	}
	for _, text := range []string{
		`{"cniVersion":"1.0.0","ips":[null],"interfaces":[null],"routes":[null]}`, `{"code":7,"msg":"x"}`, `{"cniVersion":3}`, `null`,
		`{"cniVersion":"0.2.0","ip4":null,"ip6":{"ip":"::/0","routes":[null]}}`, "{", `{"IPS":[{"ADDRESS":"1.2.3.4/5"}]}`,
	} {
		f.Add([]byte(text), "1.1.0")
	}
	f.Fuzz(func(t *testing.T, stdout []byte, cniVersion string) {
		res, raw, err := decodeResult(stdout, cniVersion)
		_, _ = readResult(stdout, cniVersion)
		if err != nil {
			require.Nil(t, res)
			require.Nil(t, raw)
			return
		}
		want := versionOrFirst(cniVersion)
		require.Equal(t, want, res.Version())
		require.True(t, strings.HasPrefix(string(raw), "{"))
		// What goes on is what libcni, and so the next plugin, reads.
		again, err := create.CreateFromBytes(raw)
		require.NoError(t, err)
		require.Equal(t, want, again.Version())
		kept, err := readResult(raw, cniVersion)
		require.NoError(t, err)
		require.Equal(t, asJSON(t, res), asJSON(t, kept))
		if _, isOld := res.(*types020.Result); !isOld {
			require.Equal(t, ipCount(res), ipCount(again))
		}
		for to := range fullResults {
			_, _ = convertResult(res, to)
		}
	})
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func ipCount(res types.Result) int {
	switch res := res.(type) {
	case *types040.Result:
		return len(res.IPs)
	case *types100.Result:
		return len(res.IPs)
	}
	return 0
}

func BenchmarkDecodeResult(b *testing.B) {
	text := []byte(fullResults["1.1.0"])
	b.Run("podcni", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := decodeResult(text, "1.1.0"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("libcni", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var fix map[string]any
			if err := json.Unmarshal(text, &fix); err != nil {
				b.Fatal(err)
			}
			if _, err := create.Create("1.1.0", text); err != nil {
				b.Fatal(err)
			}
		}
	})
}
