"""Miniatures of published corpora, with their directories and the syntax of their transcripts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.corpus_formats import record, write


@dataclass(frozen=True)
class Layout:
    """A miniature: what lies in it, and what is to be read from it."""

    format: str
    utterances: dict[str, tuple[str, str, str]]
    """Speaker, language and text by recording."""
    files: dict[str, str | bytes]
    root: str = "corpus"
    """Name of the corpus folder."""
    given: str = ""
    """File that is given as the corpus."""
    more: tuple[str, ...] = ()
    """Further recordings, which are none of its utterances on purpose."""
    options: dict[str, object] = field(default_factory=dict)

    def make(self, folder: Path) -> Path:
        root = folder / self.root
        for name, content in self.files.items():
            write(root / name, content)
        for name in (*self.utterances, *self.more):
            record(root / name, 4800)
        return root / self.given if self.given else root


def _json(**values: object) -> str:
    return json.dumps(values, ensure_ascii=False)


def eaf(media: str, *tiers: tuple[str, str, tuple[tuple[int, int, str], ...]], language: str = "deu") -> str:
    """A document of ELAN. Tiers are given by name, participant, and annotations: start and end in ms, and text."""
    slots, written = list[int](), list[str]()
    for name, participant, spoken in tiers:
        lines = []
        for start, end, text in spoken:
            slots += [start, end]
            lines.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{len(slots)}" TIME_SLOT_REF1="ts{len(slots) - 1}" '
                f'TIME_SLOT_REF2="ts{len(slots)}"><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>'
                "</ANNOTATION>"
            )
        said_by = f' PARTICIPANT="{participant}"' if participant else ""
        written.append(f'<TIER LANG_REF="{language}" TIER_ID="{name}"{said_by}>{"".join(lines)}</TIER>')
    order = "".join(f'<TIME_SLOT TIME_SLOT_ID="ts{n}" TIME_VALUE="{value}"/>' for n, value in enumerate(slots, 1))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT VERSION="3.0"><HEADER TIME_UNITS="milliseconds">'
        f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/speech/{media}" MIME_TYPE="audio/x-wav" '
        f'RELATIVE_MEDIA_URL="./{media}"/></HEADER><TIME_ORDER>{order}</TIME_ORDER>{"".join(written)}'
        f'<LANGUAGE LANG_ID="{language}" LANG_DEF="http://cdb.iso.org/lg/CDB-00138502-001"/></ANNOTATION_DOCUMENT>\n'
    )


LAYOUTS = {
    "LJSpeech": Layout(
        "ljspeech",
        {
            "wavs/LJ001-0001.wav": ("LJSpeech-1.1", "en", "Printing, in the only sense"),
            "wavs/LJ001-0002.wav": ("LJSpeech-1.1", "en", "in fourteen fifty-five"),
        },
        {
            "metadata.csv": "LJ001-0001|Printing, in the only sense|Printing, in the only sense\n"
            "LJ001-0002|in 1455|in fourteen fifty-five\n",
            "README": "A public domain speech dataset",
        },
        root="LJSpeech-1.1",
    ),
    "LJSpeech, names with suffixes and speakers": Layout(
        "ljspeech",
        {
            "wavs/a.wav": ("alice", "en", "The first one."),
            "wavs/b.WAV": ("alice", "en", "The second one."),
            "wavs/c.flac": ("bob", "en", "The third one."),
        },
        {"metadata.csv": "a.wav|alice|The first one.\nb|alice|The second one.\nc.wav|bob|The third one.\n"},
    ),
    "LJSpeech with a header": Layout(
        "ljspeech",
        {"wavs/a.wav": ("alice", "en", "The first one."), "wavs/b.wav": ("bob", "en", "The second one.")},
        {"metadata.csv": "audio_file|text|speaker_name\na.wav|The first one.|alice\nb.wav|The second one.|bob\n"},
    ),
    "LibriTTS": Layout(
        "libritts",
        {
            "train-clean-100/103/1241/103_1241_000000_000001.wav": ("103", "en", "Nineteen miles away."),
            "train-clean-100/26/495/26_495_000004_000000.wav": ("26", "en", "Mr. Smith came."),
        },
        {
            "train-clean-100/103/1241/103_1241_000000_000001.normalized.txt": "Nineteen miles away.",
            "train-clean-100/103/1241/103_1241_000000_000001.original.txt": "19 miles away.",
            "train-clean-100/103/1241/103_1241.trans.tsv": "103_1241_000000_000001\t19 miles away.\tNineteen miles\n",
            "train-clean-100/103/1241/103_1241.book.tsv": "103_1241_000000_000001\t19 miles away.\n",
            "train-clean-100/26/495/26_495_000004_000000.normalized.txt": "Mr. Smith came.",
            "train-clean-100/26/495/26_495_000004_000000.original.txt": "Mr. Smith came.",
            "speakers.tsv": "READER\tGENDER\tSUBSET\tNAME\n103\tF\ttrain-clean-100\tKaren Savage\n",
        },
        root="LibriTTS",
    ),
    "LibriSpeech": Layout(
        "librispeech",
        {
            "train-clean-100/19/198/19-198-0000.flac": ("19", "en", "northanger abbey"),
            "train-clean-100/19/198/19-198-0001.flac": ("19", "en", "this little work was finished"),
        },
        {
            "train-clean-100/19/198/19-198.trans.txt": "19-198-0000 NORTHANGER ABBEY\n"
            "19-198-0001 THIS LITTLE WORK WAS FINISHED\n",
            "SPEAKERS.TXT": ";ID |SEX| SUBSET |MINUTES| NAME\n19 | F | train-clean-100 | 25.19 | Kara Shallenberg\n",
        },
        root="LibriSpeech",
    ),
    "Multilingual LibriSpeech": Layout(
        "mls",
        {
            "dev/audio/5295/4728/5295_4728_000000.flac": ("5295", "de", "es war einmal ein mann"),
            "train/audio/252/1023/252_1023_000001.flac": ("252", "de", "der hatte drei söhne"),
        },
        {
            "dev/transcripts.txt": "5295_4728_000000\tes war einmal ein mann\n",
            "dev/segments.txt": "5295_4728_000000\thttp://a.example/x.mp3\t10.0\t20.0\n",
            "train/transcripts.txt": "252_1023_000001\tder hatte drei söhne\n",
            "metainfo.txt": "SPEAKER | GENDER | PARTITION\n",
        },
        root="mls_german",
    ),
    "VCTK 0.92": Layout(
        "vctk",
        {
            "wav48_silence_trimmed/p225/p225_001_mic1.flac": ("p225", "en", "Please call Stella."),
            "wav48_silence_trimmed/p280/p280_001_mic1.flac": ("p280", "en", "Ask her to bring these things."),
        },
        {
            "txt/p225/p225_001.txt": "Please call Stella.\n",
            "txt/p280/p280_001.txt": "Ask her to bring these things.\n",
            "speaker-info.txt": "ID  AGE  GENDER  ACCENTS\n",
        },
        more=("wav48_silence_trimmed/p225/p225_001_mic2.flac",),
    ),
    "VCTK 0.80": Layout(
        "vctk",
        {"wav48/p225/p225_001.wav": ("p225", "en", "Please call Stella.")},
        {"txt/p225/p225_001.txt": "Please call Stella.\n"},
    ),
    "Common Voice": Layout(
        "common-voice",
        {
            "clips/common_voice_de_1.mp3": ("4a1f", "de", 'Er sagte "nein".'),
            "clips/common_voice_de_2.mp3": ("77b0", "de", "Zieht euch bitte draußen die Schuhe aus."),
        },
        {
            "validated.tsv": "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\t"
            "gender\taccents\tvariant\tlocale\tsegment\n"
            '4a1f\tcommon_voice_de_1.mp3\ts1\tEr sagte "nein".\t\t2\t0\t\t\t\t\tde\t\n'
            "77b0\tcommon_voice_de_2.mp3\ts2\tZieht euch bitte draußen die Schuhe aus.\t\t2\t0\ttwenties\t\t\t\tde\t\n",
            "other.tsv": "client_id\tpath\tsentence\tlocale\n1\tcommon_voice_de_3.mp3\tAndere\tde\n",
        },
        root="de",
        more=("clips/common_voice_de_3.mp3",),
    ),
    "Common Voice, another table": Layout(
        "common-voice",
        {"clips/common_voice_cs_3.mp3": ("1", "cs", "Jiná věta")},
        {
            "validated.tsv": "client_id\tpath\tsentence\tlocale\n",
            "other.tsv": "client_id\tpath\tsentence\tlocale\n1\tcommon_voice_cs_3.mp3\tJiná věta\tcs\n",
        },
        given="other.tsv",
    ),
    "AISHELL-3": Layout(
        "aishell3",
        {
            "train/wav/SSB0005/SSB00050001.wav": ("SSB0005", "zh", "广州女大学生"),
            "test/wav/SSB0009/SSB00090001.wav": ("SSB0009", "zh", "尊重"),
        },
        {
            "train/content.txt": "SSB00050001.wav\t广 guang3 州 zhou1 女 nv3 大 da4 学 xue2 生 sheng1\n",
            "train/label_train-set.txt": "# SSB0005\n",
            "test/content.txt": "SSB00090001.wav\t尊 zun1 重 zhong4\n",
            "spk-info.txt": "SSB0005\tB\tfemale\tnorth\n",
        },
        root="data_aishell3",
    ),
    "Databaker": Layout(
        "databaker",
        {
            "Wave/000001.wav": ("databaker", "zh", "卡尔普陪外孙玩滑梯。"),
            "Wave/000002.wav": ("databaker", "zh", "假语村言别再拥抱我。"),
        },
        {
            "ProsodyLabeling/000001-010000.txt": "000001\t卡尔普#2陪外孙#1玩滑梯#4。\n"
            "\tka2 er2 pu3 pei2 wai4 sun1 wan2 hua2 ti1\n000002\t假语村言#2别再#1拥抱我#4。\n"
            "\tjia2 yu3 cun1 yan2 bie2 zai4 yong1 bao4 wo3\n",
            "PhoneLabeling/000001.interval": 'File type = "ooTextFile"\n',
        },
        root="BZNSYP",
    ),
    "Opencpop": Layout(
        "opencpop",
        {"segments/wavs/2001000001.wav": ("opencpop", "zh", "感受停在我发端的指尖")},
        {
            "segments/transcriptions.txt": "2001000001|感受停在我发端的指尖|g an sh ou|rest D4|0.1 0.2|0.1 0.2|0 0\n",
            "segments/train.txt": "2001000001|感受停在我发端的指尖|g an sh ou|rest D4|0.1 0.2|0.1 0.2|0 0\n",
        },
    ),
    "THCHS-30": Layout(
        "thchs30",
        {"data/A11_0.wav": ("A11", "zh", "绿是阳春烟景")},
        {
            "data/A11_0.wav.trn": "绿 是 阳春 烟 景\nlv4 shi4 yang2 chun1 yan1 jing3\nl v4 sh ix4 ii iang2\n",
            "README.TXT": "THCHS-30\n",
        },
        root="data_thchs30",
    ),
    "ESD": Layout(
        "esd",
        {
            "0001/中立/0001_000001.wav": ("0001", "zh", "打远一看，它们的确很是美丽，"),
            "0011/Neutral/evaluation/0011_000001.wav": ("0011", "en", "The nine the eggs, I keep."),
        },
        {
            "0001/0001.txt": "0001_000001\t打远一看，它们的确很是美丽，\t中立\n",
            "0011/0011.txt": "0011_000001\tThe nine the eggs, I keep.\tNeutral\n",
        },
    ),
    "JSUT": Layout(
        "jsut",
        {
            "basic5000/wav/BASIC5000_0001.wav": ("jsut", "ja", "水をマレーシアから買わなくてはならないのです。"),
            "onomatopee300/wav/ONOMATOPEE300_001.wav": ("jsut", "ja", "がらがらと鳴る。"),
        },
        {
            "basic5000/transcript_utf8.txt": "BASIC5000_0001:水をマレーシアから買わなくてはならないのです。\n",
            "onomatopee300/transcript_utf8.txt": "ONOMATOPEE300_001:がらがらと鳴る。\n",
        },
        root="jsut_ver1.1",
    ),
    "JVS": Layout(
        "jvs",
        {
            "jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav": ("jvs001", "ja", "また、東寺のように。"),
            "jvs002/nonpara30/wav24kHz16bit/BASIC5000_0025.wav": ("jvs002", "ja", "米国。"),
        },
        {
            "jvs001/parallel100/transcripts_utf8.txt": "VOICEACTRESS100_001:また、東寺のように。\n",
            "jvs002/nonpara30/transcripts_utf8.txt": "BASIC5000_0025:米国。\n",
        },
        root="jvs_ver1",
    ),
    "KSS": Layout(
        "kss",
        {
            "1/1_0000.wav": ("kss", "ko", "그는 괜찮은 척했다."),
            "2/2_0001.wav": ("kss", "ko", "열 시에 봐."),
        },
        {
            "transcript.v.1.4.txt": "1/1_0000.wav|그는 괜찮은 척했다.|그는 괜찮은 척했다.|"
            "그는|3.5|He seemed okay.\n2/2_0001.wav|10시에 봐.|열 시에 봐.|열|1.2|See you at ten.\n"
        },
        root="kss",
    ),
    "M-AILABS": Layout(
        "m-ailabs",
        {
            "by_book/female/eva_k/old_fritz/wavs/old_fritz_01_f000001.wav": ("eva_k", "de", "Erstes Kapitel."),
            "by_book/male/karlsson/kleinzaches/wavs/kleinzaches_01_f000002.wav": ("karlsson", "de", "Der zwölfte Tag."),
        },
        {
            "by_book/female/eva_k/old_fritz/metadata.csv": "old_fritz_01_f000001|Erstes Kapitel.|Erstes Kapitel.\n",
            "by_book/male/karlsson/kleinzaches/metadata.csv": "kleinzaches_01_f000002|Der 12. Tag.|Der zwölfte Tag.\n",
        },
        root="de_DE",
    ),
    "CSS10": Layout(
        "css10",
        {"acht/acht_0001.wav": ("german", "de", "Acht Gesichter am Biwasee")},
        {"transcript.txt": "acht/acht_0001.wav|8 Gesichter am Biwasee|Acht Gesichter am Biwasee|9.08\n"},
        root="german",
    ),
    "Emilia": Layout(
        "emilia",
        {
            "EN/EN_B00000/EN_B00000_S00000/mp3/EN_B00000_S00000_W000000.mp3": ("EN_B00000_S00000", "en", "Ten years."),
            "ZH/ZH_B00000/ZH_B00000_S00000/mp3/ZH_B00000_S00000_W000000.mp3": ("ZH_B00000_S00000", "zh", "十年。"),
        },
        {
            f"{code}/{code}_B00000/{code}_B00000_S00000/mp3/{code}_B00000_S00000_W000000.json": _json(
                id=f"{code}_B00000_S00000_W000000",
                wav=f"{code}_B00000/{code}_B00000_S00000/mp3/{code}_B00000_S00000_W000000.mp3",
                text=f" {text}",
                duration=0.3,
                speaker=f"{code}_B00000_S00000",
                language=code.lower(),
                dnsmos=3.3,
            )
            for code, text in (("EN", "Ten years."), ("ZH", "十年。"))
        },
        root="Emilia",
    ),
    "Hi-Fi TTS": Layout(
        "hifitts",
        {"audio/92_clean/1/a_0001.flac": ("92", "en", "Chapter one.")},
        {
            "92_manifest_clean_train.json": _json(
                audio_filepath="audio/92_clean/1/a_0001.flac",
                text="chapter 1",
                duration=0.3,
                text_no_preprocessing="Chapter 1.",
                text_normalized="Chapter one.",
            )
            + "\n"
        },
        root="hi_fi_tts_v0",
    ),
    "audiofolder": Layout(
        "audiofolder",
        {"train/a.wav": ("corpus", "en", "Quoted, with a comma"), "train/sub/b.wav": ("corpus", "en", "Second")},
        {"train/metadata.csv": 'file_name,transcription\r\na.wav,"Quoted, with a comma"\r\nsub/b.wav,Second\r\n'},
    ),
    "audiofolder, JSON lines": Layout(
        "audiofolder",
        {"a.wav": ("corpus", "en", "First"), "b.wav": ("corpus", "en", "Second")},
        {
            "metadata.jsonl": _json(file_name="a.wav", text="First")
            + "\n"
            + _json(file_name="b.wav", text="Second")
            + "\n"
        },
    ),
    "NeMo": Layout(
        "table",
        {"a.wav": ("7", "es", "hola"), "b.wav": ("8", "es", "adiós")},
        {
            "manifest.json": _json(audio_filepath="a.wav", duration=0.3, text="hola", speaker=7, lang="es")
            + "\n"
            + _json(audio_filepath="b.wav", duration=0.3, text="adiós", speaker=8, lang="es")
            + "\n"
        },
        given="manifest.json",
    ),
    "VITS, several speakers": Layout(
        "vits",
        {"wavs/a.wav": ("0", "en", "Please call."), "wavs/b.wav": ("12", "en", "Ask her.")},
        {"filelists/train.txt": "wavs/a.wav|0|Please call.\nwavs/b.wav|12|Ask her.\n"},
        given="filelists/train.txt",
        options={"audio": "."},
    ),
    "VITS, one speaker": Layout(
        "vits", {"a.wav": ("corpus", "en", "Please call.")}, {"train.txt": "a.wav|Please call.\n"}, given="train.txt"
    ),
    "Bert-VITS2, cleaned": Layout(
        "vits",
        {"a.wav": ("ben", "zh", "你好。")},
        {"train.txt": "./a.wav|ben|ZH|你好。|_ n i h ao . _|0 2 2 3 3 0 0|1 2 2 1 1\n"},
        given="train.txt",
    ),
    "a table with its own names": Layout(
        "table",
        {"x/a.wav": ("anna", "fr", "Bonjour; ça va"), "x/b.wav": ("ben", "en", "Hello")},
        {"list.csv": 'ort;wer;gesagt;sprache\nx/a.wav;anna;"Bonjour; ça va";French\nx/b.wav;ben;Hello;en-US\n'},
        given="list.csv",
        options={"columns": "audio=ort,speaker=wer,text=gesagt,language=sprache"},
    ),
    "a table without a header": Layout(
        "table",
        {"a.wav": ("anna", "en", "Hello"), "b.wav": ("ben", "en", "Goodbye")},
        {"list.tsv": "Hello\ta.wav\tanna\nGoodbye\tb.wav\tben\n"},
        given="list.tsv",
        options={"columns": "audio=2,text=1,speaker=3"},
    ),
    "GPT-SoVITS list of another machine": Layout(
        "list",
        {"data/wav/0.wav": ("s", "zh", "早上好。"), "data/1.WAV": ("s", "zh", "你好。")},
        {"out/train.list": "\ufeffD:\\corpus\\wav\\0.wav|s|ZH|早上好。\r\nE:\\elsewhere\\1.wav|s|ZH|你好。\r\n"},
        given="out/train.list",
        options={"audio": "data"},
    ),
    "ELAN": Layout(
        "elan",
        {"talk one.wav": ("Anna", "de", "Guten Tag."), "more/b.wav": ("speech", "de", "Auf Wiedersehen.")},
        {
            "talk.eaf": eaf("talk%20one.wav", ("default", "Anna", ((50, 250, "Guten\n Tag."),))),
            "talk.pfsx": "<preferences/>",
            "more/b.eaf": eaf("elsewhere.wav", ("speech", "", ((0, 300, "Auf Wiedersehen."),))),
        },
    ),
}
